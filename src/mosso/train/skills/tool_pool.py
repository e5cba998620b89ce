"""Functions as users of chat APIs define them, as a table; see tool_functions.py for how it is read.

A block is a function: `name [groups] description`, where two functions that share a group never stand in one
prompt since both would fit. Then one line each: `name:kind description` a parameter (`name?` optional; a kind
is one of tool_words.KINDS or the values of an enum `a|b`), `? question`s, `+ name sentence`s that add an
optional argument (`+ name=true` fixes it), `= result`s, where <kind> is a drawn value, <@name> an argument and
<!> the computed result.
"""

CLASSICS = """
get_weather [weather] Get the current weather for a city.
city:city The city name
unit?:celsius|fahrenheit The temperature unit
? What is the weather in {city}? | What's the weather like in {city}? | How is the weather in {city} today?
? What's the weather in {city}? | Tell me the weather in {city}. | Weather in {city}? | Is it raining in {city}?
? What is the weather in {city} in {unit}? | How warm is it in {city} in {unit}? | What is the weather like in {city} right now?
+ unit Use {unit}. | In {unit}, please. | Give it in {unit}.
= {temperature=<temperature> condition=<sky>} | {temperature=<temperature>} | {city=<@city> temperature=<temperature> condition=<sky>} | It is <sky> in <@city>. | <sky>

get_weather [weather] Get current temperature for a given location.
location:location City and country e.g. Bogota, Colombia
? What is the weather like in {location} today? | What's the weather like in {location}? | What is the weather in {location}?
? What's the temperature in {location}? | How hot is it in {location}? | Do I need an umbrella in {location}? | Weather for {location}
= <temperature> | {temperature=<temperature>} | {temp=<temperature> humidity=<percent>} | {temperature=<temperature> condition=<sky>}

get_weather [weather] Determine weather in my location
location:location The city and state e.g. San Francisco, CA
unit?:c|f
? What's the weather like in {location}? | What is the weather in {location}? | How's the weather in {location}?
? Weather in {location} please | Tell me the weather in {location}. | What is the forecast for {location}?
+ unit Use unit {unit}. | Unit: {unit}.
= {temperature=<temperature> unit=<@unit> description=<sky>} | {location=<@location> temperature=<temperature>} | <sky>

get_current_weather [weather] Get the current weather in a given location
location:location The city and state, e.g. San Francisco, CA
unit?:celsius|fahrenheit
? What's the weather like in {location} today? | What is the weather like in {location}? | What is the current weather in {location}?
? How's the weather in {location} right now? | What is the weather in {location} in {unit}? | Check the weather in {location}.
? What's the temperature in {location} in {unit}?
+ unit Use {unit}. | In {unit} please.
= {location=<@location> temperature=<temperature> unit=<@unit>} | {temperature=<temperature> forecast=<sky>} | {temperature=<temperature> wind_speed=<percent> condition=<sky>}

get_current_temperature [weather] Get the current temperature for a specific location
location:location The city and state, e.g., San Francisco, CA
unit:Celsius|Fahrenheit The temperature unit to use.
? What is the temperature in {location} in {unit}? | How warm is it in {location}, in {unit}? | Temperature in {location} in {unit}?
? Give me the temperature of {location} in {unit}. | In {unit}, what's the temperature in {location}? | Tell me how cold it is in {location} in {unit}.
= <temperature> | {temperature=<temperature>} | {temperature=<temperature> unit=<@unit>}

get_time [time] Get the current time in a city.
city:city The city
? What time is it in {city}? | What's the time in {city}? | What is the current time in {city}? | Tell me the time in {city}.
? Current time in {city}? | What time is it now in {city}? | Time in {city}?
= {time=<time>} | <time> | {city=<@city> time=<time>} | {time=<time> timezone=<zone>} | It is <time> in <@city>.

get_current_time [time] Get the current time in a timezone.
timezone:zone IANA timezone name
? What time is it in {timezone}? | What's the time in {timezone}? | Give me the current time for {timezone}. | Time in {timezone}?
? Tell me the time in timezone {timezone}. | What is the current time in {timezone}?
= {time=<time>} | <time> | {time=<time> date=<date>}

calculator [calculator add subtract multiply divide] Evaluate a math expression.
expression:expression The expression to evaluate
? What is {expression}? | Calculate {expression}. | Compute {expression}. | How much is {expression}? | {expression} | What's {expression}?
? Use the calculator for {expression}. | Evaluate {expression}. | {expression} =
= <!> | {result=<!>} | {expression=<@expression> result=<!>}

calculate [calculator add subtract multiply divide] Calculates the value of an arithmetic expression
expression:expression e.g. 2 + 3
? What is {expression}? | Calculate {expression}. | How much is {expression}? | What does {expression} equal? | Work out {expression}.
? Please compute {expression}. | {expression}?
= <!> | {result=<!>} | {value=<!>}

add [add] Add two numbers.
a:operand The first number
b:operand The second number
? What is {a} + {b}? | Add {a} and {b}. | What is {a} plus {b}? | {a} + {b} | How much is {a} plus {b}? | {a}+{b}=?
? Calculate {a} + {b}. | What is the sum of {a} and {b}? | What's {a}+{b}?
= <!> | {result=<!>} | {sum=<!>}

multiply [multiply] Multiply two numbers.
a:operand The first number
b:operand The second number
? What is {a} * {b}? | Multiply {a} by {b}. | What is {a} times {b}? | {a} * {b} | How much is {a} times {b}? | {a}*{b}=?
? Calculate {a} × {b}. | What is the product of {a} and {b}? | What's {a} x {b}? | Multiply {a} and {b}.
= <!> | {result=<!>} | {product=<!>}

subtract [subtract] Subtract b from a.
a:operand
b:operand
? What is {a} - {b}? | What is {a} minus {b}? | {a} - {b} | How much is {a} minus {b}? | Calculate {a} - {b}. | {a}-{b}=?
= <!> | {result=<!>} | {difference=<!>}

search [search] Search the web.
query:topic The search query
? Search for {query}. | Search the web for {query}. | Look up {query}. | Find information about {query}. | Search: {query}
? Can you search for {query}? | Google {query}. | Find me something about {query}.
= [title] | {title=<title> url=<url>} | {results=[title]} | <sentence>

web_search [search] Search the internet for a query
query:topic
max_results?:count Maximum number of results
? Search the web for {query}. | Search for {query}. | Look up {query} online. | Find {max_results} results about {query}.
? Search the internet for {query}. | Give me {max_results} pages about {query}. | Do a web search for {query}.
+ max_results At most {max_results} results. | I want {max_results} results.
= [title] | {results=[title]} | {title=<title> url=<url>}

send_email [email] Send an email to a recipient.
to:email The recipient's email address
subject:title The subject line
body:sentence The text of the email
? Send an email to {to} with the subject "{subject}" and the body "{body}". | Email {to}, subject "{subject}": "{body}"
? Write to {to} with subject "{subject}" saying "{body}". | Mail {to} about "{subject}" with the text "{body}".
? Send {to} an email. Subject: "{subject}". Body: "{body}" | Please email "{body}" to {to} with the subject "{subject}".
= {status=sent} | {status=sent id=<code>} | Email sent to <@to>. | {success=<boolean>}

send_email [email] Sends an email
to:email
body:sentence
? Send an email to {to} saying "{body}". | Email {to}: "{body}" | Write an email to {to} with the text "{body}". | Mail "{body}" to {to}.
? Send {to} an email that says "{body}". | Please email {to} and say "{body}".
= {status=sent} | sent | {sent=<boolean> id=<code>}

get_stock_price [stock] Get the current stock price.
symbol:ticker The ticker symbol, e.g. AAPL
? What is the stock price of {symbol}? | What's the price of {symbol} stock? | How much is {symbol} trading at? | Stock price of {symbol}?
? Get the stock price for {symbol}. | What is {symbol} worth right now? | How is the {symbol} stock doing?
= <price> | {price=<price>} | {symbol=<@symbol> price=<price>} | {price=<price> currency=<currency>}

get_stock_price [stock] Get the latest price of a stock
ticker:ticker Stock ticker
currency?:USD|EUR|GBP
? What is the stock price of {ticker}? | What's {ticker} trading at? | How much is a share of {ticker}? | Price of {ticker}?
? Give me the price of {ticker} in {currency}. | What does {ticker} cost today?
+ currency In {currency}, please. | Use {currency}.
= {price=<price>} | <price> | {ticker=<@ticker> price=<price> change=<temperature>}

convert_currency [currency] Convert an amount from one currency to another.
amount:amount The amount to convert
from:currency The source currency code
to:currency The target currency code
? Convert {amount} {from} to {to}. | How much is {amount} {from} in {to}? | What is {amount} {from} in {to}? | {amount} {from} to {to}
? Change {amount} {from} into {to}. | Exchange {amount} {from} for {to}. | I have {amount} {from}. How much is it in {to}?
= <price> | {result=<price>} | {amount=<price> rate=<price>} | {converted=<price> currency=<@to>}

get_exchange_rate [currency] Get the exchange rate between two currencies
from_currency:currency
to_currency:currency
? What is the exchange rate from {from_currency} to {to_currency}? | Exchange rate {from_currency} to {to_currency}?
? What's the rate of {from_currency} to {to_currency}? | Give me the {from_currency} to {to_currency} rate. | How many {to_currency} do I get for one {from_currency}?
? Get the rate between {from_currency} and {to_currency}.
= <price> | {rate=<price>} | {rate=<price> date=<date>}

create_event [calendar] Create a calendar event.
title:title The title of the event
date:date The date, YYYY-MM-DD
time?:time The start time, HH:MM
? Create an event "{title}" on {date}. | Add "{title}" to my calendar on {date} at {time}. | Put "{title}" in my calendar for {date}.
? Schedule "{title}" on {date} at {time}. | Create a calendar event called "{title}" on {date}. | Plan "{title}" for {date} at {time}.
+ time It starts at {time}. | At {time}.
= {status=created id=<code>} | {event_id=<code>} | {created=<boolean>} | Event created on <@date>.

create_calendar_event [calendar] Create an event with participants
name:title
date:date
participants:names The people who take part
? Create an event "{name}" on {date} with {participants}. | Schedule "{name}" on {date} with {participants}. | Plan "{name}" with {participants} on {date}.
? Add "{name}" with {participants} on {date} to the calendar. | On {date}, set up "{name}" with {participants}. | Put "{name}" on {date} with {participants} in my calendar.
= {status=created} | {id=<code> status=<status>} | confirmed
"""

OTHERS = """
get_forecast [weather] Get the weather forecast for several days
city:city
days:count Number of days
? What is the forecast for {city} for {days} days? | Forecast for {city}, {days} days | How will the weather be in {city} for the next {days} days?
? Give me a {days} day forecast for {city}. | Weather in {city} over the next {days} days? | Show the {days} day forecast of {city}.
= {high=<temperature> low=<temperature>} | [sky] | {summary=<sky> rain=<percent>}

divide [divide] Divide a by b.
a:number
b:number
? What is {a} / {b}? | Divide {a} by {b}. | What is {a} divided by {b}? | {a} / {b} | How much is {a} divided by {b}? | Compute {a}/{b}.
= <!> | {result=<!>} | {quotient=<!>}

get_user [user] Look up a user by id
user_id:code The user's id
? Who is user {user_id}? | Look up user {user_id}. | Get user {user_id}. | Show me the user {user_id}. | Find the user with id {user_id}. | What do we know about user {user_id}?
= {name=<name> email=<email>} | {name=<name> active=<boolean>} | {name=<name> city=<city> email=<email>}

get_order_status [order] Get the status of an order.
order_id:code The order number
? Where is my order {order_id}? | What is the status of order {order_id}? | Has order {order_id} been shipped? | Check order {order_id}.
? Order status for {order_id}? | Track my order {order_id}. | When will order {order_id} arrive?
= {status=<status>} | {status=<status> delivery_date=<date>} | <status> | Your order is <status>.

get_delivery_date [order] Get the delivery date for a customer's order
order_id:code
? When will my order {order_id} be delivered? | What is the delivery date of order {order_id}? | When does {order_id} arrive? | Delivery date for {order_id}?
? My order number is {order_id}. When will it come? | Get the delivery date for {order_id}.
= <date> | {delivery_date=<date>} | {date=<date> carrier=<word>}

cancel_order [order] Cancel an order
order_id:code
reason?:phrase Why it is cancelled
? Cancel order {order_id}. | Please cancel my order {order_id}. | I want to cancel order {order_id}. | Cancel {order_id} because of "{reason}".
? Stop order {order_id}. | I don't want order {order_id} any more.
+ reason The reason is "{reason}". | Reason: "{reason}".
= {status=cancelled} | {cancelled=<boolean> refund=<price>} | Order <@order_id> is cancelled.

track_package [package] Track a package by its tracking number
tracking_number:code
? Where is my package {tracking_number}? | Track package {tracking_number}. | Track {tracking_number}. | Where is the parcel {tracking_number}?
? Find package {tracking_number}. | What is the state of package {tracking_number}?
= {location=<city> status=<status>} | {status=<status>} | <status>

translate [translation] Translate text into another language.
text:phrase The text to translate
target_language:language The language to translate into
? Translate "{text}" into {target_language}. | How do you say "{text}" in {target_language}? | What is "{text}" in {target_language}?
? Translate "{text}" to {target_language}. | Say "{text}" in {target_language}. | I need "{text}" in {target_language}.
= <phrase> | {translation=<phrase>} | {translated_text=<phrase> language=<@target_language>}

translate_text [translation] Translate text
text:sentence
source?:language Source language
target:language Target language
? Translate "{text}" from {source} to {target}. | Translate "{text}" into {target}. | Put "{text}" into {target}. | What is "{text}" in {target}?
? Turn the {source} text "{text}" into {target}. | Please translate "{text}" to {target}.
= {translation=<phrase>} | <phrase>

set_reminder [reminder] Set a reminder.
text:phrase What to be reminded of
time:time When, HH:MM
? Remind me of "{text}" at {time}. | Set a reminder for {time}: "{text}" | At {time}, remind me of "{text}". | Remind me at {time} about "{text}".
? Set a reminder "{text}" at {time}. | I need a reminder "{text}" at {time}.
= {status=ok} | {reminder_id=<code>} | Reminder set for <@time>.

set_alarm [alarm] Set an alarm clock
time:time
label?:word
? Set an alarm for {time}. | Wake me at {time}. | Alarm at {time}. | Set the alarm "{label}" for {time}. | I want to get up at {time}. | Please set my alarm to {time}.
+ label Label it "{label}". | Call it "{label}".
= {status=<status>} | {alarm=<@time>} | ok

set_timer [timer] Start a countdown timer
minutes:count Minutes to count down
? Set a timer for {minutes} minutes. | Start a {minutes} minute timer. | Timer: {minutes} minutes | Count down {minutes} minutes. | Set the timer to {minutes} minutes. | I need a timer for {minutes} minutes.
= {status=running} | {timer_id=<code>} | {ends_at=<time>}

turn_on_light [light] Turn on the light in a room
room:room The room
brightness?:percent Brightness from 1 to 100
? Turn on the light in the {room}. | Switch on the {room} light. | Light on in the {room}. | Make it bright in the {room}. | Turn the {room} light on with brightness {brightness}. | Please turn on the light in the {room}.
+ brightness Set the brightness to {brightness}. | Brightness {brightness}.
= {status=on} | ok | {room=<@room> on=<boolean>}

set_thermostat [thermostat] Set the temperature of a room
room:room
temperature:count Degrees
? Set the {room} to {temperature} degrees. | Heat the {room} to {temperature} degrees. | Make the {room} {temperature} degrees warm. | Set the thermostat in the {room} to {temperature}.
? Change the temperature of the {room} to {temperature}. | I want {temperature} degrees in the {room}.
= {status=ok} | {temperature=<@temperature> room=<@room>} | done

lock_door [door] Lock or unlock a door
door:front|back|garage|cellar
locked:boolean True locks, false unlocks
? Set the {door} door to locked {locked}. | {door} door: locked {locked} | Make locked {locked} for the {door} door. | Put the {door} door on locked {locked}. | Change the {door} door to locked {locked}. | For the {door} door, locked should be {locked}.
= {status=<status>} | ok | {locked=<@locked>}

play_music [music] Play a song or artist
query:title Song or artist
shuffle?:boolean
? Play "{query}". | Put on "{query}". | I want to hear "{query}". | Play some "{query}". | Start the music "{query}". | Can you play "{query}"?
+ shuffle=true Shuffle it. | With shuffle.
+ shuffle=false No shuffle. | Without shuffle.
= {playing=<@query>} | {status=playing} | Now playing <@query>.

find_flights [flight] Find flights between two cities.
origin:city Departure city
destination:city Arrival city
date:date Departure date
? Find flights from {origin} to {destination} on {date}. | I want to fly from {origin} to {destination} on {date}. | Flights {origin} to {destination}, {date}
? Which flights go from {origin} to {destination} on {date}? | On {date}, find me a flight to {destination} from {origin}. | Show flights to {destination} from {origin} on {date}.
= [code] | {flight=<code> price=<price>} | {flight=<code> departure=<time> price=<price>}

book_flight [flight] Book a flight
flight_number:code
passengers?:count How many passengers
? Book flight {flight_number}. | Book the flight {flight_number} for {passengers} passengers. | I want flight {flight_number}. | Reserve flight {flight_number}. | Please book {flight_number}. | Get me on flight {flight_number}.
+ passengers For {passengers} passengers. | There are {passengers} passengers.
= {booking=<code>} | {status=booked code=<code>} | confirmed

book_hotel [hotel] Book a hotel room.
city:city
check_in:date Arrival date
nights:count Number of nights
? Book a hotel in {city} from {check_in} for {nights} nights. | I need a hotel in {city} for {nights} nights from {check_in}. | Book {nights} nights in {city} starting {check_in}.
? Hotel in {city}, {check_in}, {nights} nights | Reserve a room in {city} on {check_in} for {nights} nights. | From {check_in}, book me {nights} nights in {city}.
= {confirmation=<code> price=<price>} | {hotel=<title> status=booked} | <code>

find_restaurants [restaurant] Find restaurants in a city
city:city
cuisine?:Italian|French|Indian|Thai|Mexican|Greek
? Find a restaurant in {city}. | Where can I eat in {city}? | Find {cuisine} restaurants in {city}. | Restaurants in {city}? | I want to eat {cuisine} food in {city}. | Which {cuisine} restaurants are in {city}?
+ cuisine It should be {cuisine}. | I like {cuisine} food.
= [title] | {name=<title> rating=<count>} | {restaurants=[title]}

book_table [table] Reserve a table in a restaurant
restaurant:title
people:count
time:time
? Book a table at "{restaurant}" for {people} people at {time}. | Reserve a table for {people} at "{restaurant}" at {time}. | Table for {people} at {time} in "{restaurant}"
? At {time}, we want a table for {people} at "{restaurant}". | Get us a table at "{restaurant}" for {people} people, {time}. | Book "{restaurant}" at {time} for {people} people.
= {status=confirmed} | {reservation=<code>} | {confirmed=<boolean> table=<count>}

find_recipe [recipe] Find a recipe for a dish
dish:dish
servings?:count
? Find a recipe for {dish}. | How do I cook {dish}? | I want to make {dish}. | Recipe for {dish}? | Find a {dish} recipe for {servings} people. | What do I need for {dish}?
+ servings It is for {servings} people. | For {servings} servings.
= {name=<title> time=<minutes>} | {ingredients=[word]} | [word]

get_population [population] Get the population of a country
country:country
? What is the population of {country}? | How many people live in {country}? | Population of {country}? | How big is the population of {country}? | Tell me the population of {country}. | Get the population for {country}.
= <big> | {population=<big>} | {population=<big> year=<year>}

get_capital [capital] Get the capital of a country
country:country
? What is the capital of {country}? | Capital of {country}? | Which city is the capital of {country}? | Tell me the capital of {country}. | What's {country}'s capital? | Name the capital of {country}.
= <city> | {capital=<city>} | The capital is <city>.

get_distance [distance] Get the distance between two cities in kilometers
origin:city
destination:city
? How far is it from {origin} to {destination}? | What is the distance from {origin} to {destination}? | Distance {origin} to {destination}? | How many kilometers from {origin} to {destination}?
? What is the distance between {origin} and {destination}? | How far is {origin} from {destination}?
= <number> | {distance=<number>} | {distance_km=<number> duration=<minutes>}

get_directions [route] Get directions from one place to another
start:location
end:location
mode?:walking|driving|cycling|transit
? How do I get from {start} to {end}? | Directions from {start} to {end}. | Show me the way from {start} to {end} by {mode}. | Route from {start} to {end}
? I want to go from {start} to {end}, {mode}. | Find the way from {start} to {end}.
+ mode I am {mode}. | Mode: {mode}.
= {distance=<number> duration=<minutes>} | {duration=<minutes>} | Take the road to <city>.

get_news [news] Get the latest headlines on a topic
topic:topic
? What's the news about {topic}? | News on {topic}? | Give me headlines about {topic}. | What is new in {topic}? | Any news on {topic}? | Show me the news about {topic}.
= [title] | {headline=<title>} | {headlines=[title]}

read_file [file] Read a file.
path:file The path of the file
? Read {path}. | Show me {path}. | What is in {path}? | Open the file {path}. | Print the file {path}. | What does {path} contain?
= <sentence> | {content=<sentence>} | {lines=<count> content=<phrase>}

write_file [file] Write text to a file
path:file
content:sentence
? Write "{content}" to {path}. | Save "{content}" in {path}. | Put "{content}" into the file {path}. | Create {path} with the content "{content}". | Make a file {path} that says "{content}". | In {path}, write "{content}".
= {status=ok} | {bytes=<number>} | ok

list_files [folder] List the files in a folder
folder:word
? List the files in {folder}. | Which files are in {folder}? | Show the folder {folder}. | What is in the folder {folder}? | ls {folder} | List folder {folder}.
= [file] | {files=[file]} | {count=<count>}

run_query [database] Run a query on a table
table:word The table
limit?:count Rows at most
? Query the table {table}. | Show me the rows of table {table}. | Select from table {table}. | Get {limit} rows from table {table}. | What is in the table {table}? | Read table {table}.
+ limit Limit {limit}. | At most {limit} rows.
= {rows=<number>} | [name] | {rows=<count> time=<price>}

create_ticket [ticket] Create a support ticket
title:title
priority?:low|medium|high|urgent
? Create a ticket "{title}". | Open a {priority} priority ticket "{title}". | File a support ticket about "{title}". | Make a ticket for "{title}". | Open a ticket: "{title}" | New ticket "{title}" with priority {priority}
+ priority Priority: {priority}. | The priority is {priority}.
= {ticket_id=<code>} | {id=<code> status=open} | <code>

assign_task [task] Assign a task to someone
task_id:code
assignee:name
? Assign task {task_id} to {assignee}. | Give task {task_id} to {assignee}. | {assignee} should do task {task_id}. | Let {assignee} work on task {task_id}. | Task {task_id} goes to {assignee}. | Put {assignee} on task {task_id}.
= {status=assigned} | {assigned=<boolean>} | Task <@task_id> now belongs to <@assignee>.

list_tasks [task] List my open tasks
? What are my tasks? | List my tasks. | What do I have to do? | Show me my open tasks. | Which tasks are open? | Do I have any tasks?
= [phrase] | {tasks=[phrase]} | {open=<count> done=<count>}

get_date [today] Get today's date
? What is today's date? | What day is it today? | What date is it? | Tell me today's date. | Which date do we have today? | Today's date?
= <date> | {date=<date>} | {date=<date> week=<count>}

add_to_cart [cart] Add a product to the cart
product:word
quantity:count
? Add {quantity} {product} to my cart. | Put {quantity} {product} in the cart. | I want to buy {quantity} {product}. | Cart: {quantity} {product} | Add {product} to the cart, {quantity} pieces. | Please put {quantity} {product} into my cart.
= {total=<price>} | {items=<count> total=<price>} | {status=ok}

get_product_price [product] Get the price of a product
product:word
? How much does the {product} cost? | What is the price of the {product}? | Price of the {product}? | What does the {product} cost? | Tell me the price of the {product}. | How expensive is the {product}?
= <price> | {price=<price>} | {product=<@product> price=<price> in_stock=<boolean>}

check_stock [inventory] Check if a product is in stock
sku:code The product's number
warehouse?:city
? Is {sku} in stock? | How many {sku} are left? | Check the stock of {sku}. | Check the stock of {sku} in {warehouse}. | Do we have {sku}? | Is {sku} available in {warehouse}?
+ warehouse Check the warehouse in {warehouse}. | In the warehouse {warehouse}.
= {in_stock=<boolean> quantity=<number>} | <number> | {quantity=<number>}

apply_discount [discount] Apply a discount to a price
price:price
percent:percent Discount in percent
? Apply a {percent} percent discount to {price}. | What is {price} with {percent}% off? | Take {percent} percent off {price}. | Discount {price} by {percent} percent. | {percent}% off {price}? | Reduce {price} by {percent} percent.
= <price> | {new_price=<price>} | {price=<price> saved=<price>}

calculate_tip [tip] Calculate the tip for a bill
bill:price The bill
percent:percent
? What is a {percent}% tip on {bill}? | Tip for {bill} at {percent} percent? | How much tip is {percent} percent of {bill}? | The bill is {bill}. What is a tip of {percent} percent? | Work out a {percent} percent tip on {bill}. | Calculate the tip: {bill}, {percent}%
= <price> | {tip=<price>} | {tip=<price> total=<price>}

transfer_money [transfer] Transfer money to an account
account:code
amount:price
currency?:EUR|USD|GBP
? Transfer {amount} to account {account}. | Send {amount} {currency} to account {account}. | Pay {amount} to {account}. | Move {amount} to the account {account}. | Please transfer {amount} {currency} to {account}. | To account {account}, send {amount}.
+ currency In {currency}. | The currency is {currency}.
= {status=done id=<code>} | {balance=<price>} | ok

get_balance [balance] Get the balance of an account
account_id:code
? What is the balance of account {account_id}? | How much money is in {account_id}? | Balance of {account_id}? | Check the balance of {account_id}. | Show the balance for account {account_id}. | How much is left on account {account_id}?
= <price> | {balance=<price>} | {balance=<price> currency=<currency>}

send_message [message] Send a text message to a contact
contact:name
text:sentence
? Send {contact} the message "{text}". | Text {contact}: "{text}" | Tell {contact} "{text}". | Message {contact} "{text}". | Write to {contact}: "{text}" | Send "{text}" to {contact}.
= {status=sent} | sent | {delivered=<boolean>}

call_contact [phone] Call somebody by phone
name:name
? Call {name}. | Phone {name}. | Ring {name}. | I want to talk to {name} on the phone. | Please call {name}. | Make a call to {name}.
= {status=calling} | {number=<phone>} | no answer

get_phone_number [contact] Look up a person's phone number
name:name
? What is the phone number of {name}? | What's {name}'s number? | Phone number of {name}? | Find the number of {name}. | Look up the phone number of {name}. | I need the number of {name}.
= <phone> | {phone=<phone>} | {name=<@name> phone=<phone>}

invite_users [invitation] Invite people by email
emails:emails The addresses
? Invite {emails}. | Send an invitation to {emails}. | Please invite {emails}. | Invite these people: {emails} | Add {emails} to the invitation. | Invitations go to {emails}.
= {invited=<count>} | {status=sent} | ok

count_words [text] Count the words of a text
text:sentence
? How many words are in "{text}"? | Count the words in "{text}". | Word count of "{text}"? | How many words does "{text}" have? | Count words: "{text}" | Count the words of "{text}".
= <count> | {words=<count>} | {words=<count> characters=<number>}

save_note [note] Save a note
text:phrase
tags?:words Tags of the note
? Save the note "{text}". | Note: "{text}" | Write down "{text}". | Take a note: "{text}" | Make a note of "{text}" with the tags {tags}. | Keep the note "{text}", tags {tags}.
+ tags Tags: {tags}. | Tag it with {tags}.
= {note_id=<code>} | {saved=<boolean>} | Note saved.

get_movie_info [movie] Get facts about a movie
title:title
year?:year
? Tell me about the movie "{title}". | Who made the movie "{title}"? | Look up the film "{title}" from {year}. | Info on the film "{title}"? | Find the movie "{title}" of {year}. | What is the movie "{title}"?
+ year It is from {year}. | The year is {year}.
= {director=<name> year=<year>} | {rating=<price>} | {title=<@title> director=<name> rating=<count>}

find_book [book] Find a book by its author
author:name
limit?:count
? Find a book by {author}. | Which books did {author} write? | Books by {author}? | What has {author} written? | Find {limit} books by {author}. | Show me {limit} books of {author}.
+ limit At most {limit} books. | I want {limit} books.
= [title] | {title=<title> year=<year>} | {books=[title]}

roll_dice [dice] Roll dice
sides:count Sides of each die
count?:count How many dice
? Roll a die with {sides} sides. | Throw a {sides} sided die. | Roll a d{sides}. | Roll {count} dice with {sides} sides. | Roll {count}d{sides}. | Please roll a {sides} sided die.
= <count> | {result=<count>} | {total=<count>}

random_number [random] Pick a random number between two numbers
min:count
max:number
? Pick a random number between {min} and {max}. | Random number from {min} to {max}. | Give me a random number between {min} and {max}. | Choose a number from {min} to {max}. | A random number, {min} to {max}. | Draw a number between {min} and {max}.
= <number> | {number=<number>} | {value=<number>}

convert_units [units] Convert a value from one unit to another
value:amount
from_unit:meters|feet|miles|kilometers|inches|yards
to_unit:meters|feet|miles|kilometers|inches|yards
? Convert {value} {from_unit} to {to_unit}. | How many {to_unit} are {value} {from_unit}? | What is {value} {from_unit} in {to_unit}? | {value} {from_unit} in {to_unit}? | Change {value} {from_unit} to {to_unit}. | Turn {value} {from_unit} into {to_unit}.
= <price> | {result=<price>} | {value=<price> unit=<@to_unit>}

check_website [website] Check whether a website is up
url:url
? Is {url} up? | Check {url}. | Is {url} online? | Does {url} work? | Test the website {url}. | Is the site {url} down?
= {up=<boolean>} | {status_code=<number> up=<boolean>} | {status=<status> latency=<price>}

shorten_url [link] Make a short link
url:url
? Shorten {url}. | Make a short link for {url}. | I need a short url for {url}. | Short link of {url}? | Give me a shorter version of {url}. | Make {url} shorter.
= <url> | {short_url=<url>} | {link=<url> id=<code>}

restart_server [server] Restart a server
server:code
force?:boolean
? Restart the server {server}. | Restart {server}. | Reboot server {server}. | Please restart {server}. | Server {server} needs a restart. | Do a restart of {server}.
+ force=true Force it. | Use force.
+ force=false Do not force it. | Without force.
= {status=restarting} | {status=<status> uptime=<minutes>} | ok

get_sensor_reading [sensor] Read a sensor
sensor_id:code
? What does sensor {sensor_id} say? | Read sensor {sensor_id}. | Reading of sensor {sensor_id}? | What is the value of sensor {sensor_id}? | Check sensor {sensor_id}. | Get the reading of {sensor_id}.
= <temperature> | {value=<price> unit=<word>} | {temperature=<temperature> battery=<percent>}

schedule_meeting [meeting] Schedule a meeting
with:name
date:date
time:time
? Schedule a meeting with {with} on {date} at {time}. | Meet {with} on {date} at {time}. | I want to meet {with} at {time} on {date}. | Set up a meeting with {with}, {date}, {time}.
? On {date} at {time}, plan a meeting with {with}. | Plan a meeting with {with} on {date} at {time}.
= {status=confirmed} | {meeting_id=<code>} | Meeting set for <@date> at <@time>.

get_horoscope [horoscope] Get today's horoscope for an astrological sign.
sign:Aries|Taurus|Gemini|Leo|Virgo|Libra|Scorpio|Aquarius|Pisces An astrological sign
? What is my horoscope? I am a {sign}. | What is the horoscope for {sign}? | Horoscope for {sign}? | Tell me the horoscope of {sign}. | I'm a {sign}. What is my horoscope? | Give me today's {sign} horoscope.
= <sentence> | {horoscope=<sentence>} | {sign=<@sign> mood=<sky>}
"""
