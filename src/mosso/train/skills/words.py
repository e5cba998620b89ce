"""Pools of words and names that the skills fill their templates with."""

from __future__ import annotations

import random

COMMON_WORDS = tuple(
    """apple anchor arrow autumn baker banana basket bridge button camera candle carrot castle cherry circle
    cloud coffee cotton desert dolphin dragon drawer eagle engine evening falcon feather finger flower forest
    fountain garden giraffe glacier glove grape guitar hammer harbor helmet honey island ivory jacket jaguar
    jungle kettle kitchen kiwi ladder lantern lemon lion lizard magnet mango maple market melon mirror monkey
    mountain needle notebook nutmeg ocean olive onion orange orchid otter oven paper peach pencil pepper
    pillow planet plum pocket quilt rabbit radio river rocket saddle salmon school shadow silver spider
    spoon summer sunset table tiger tomato tower train tulip turtle umbrella valley velvet village violin
    walnut water whale window winter wolf yellow yogurt zebra zipper
    acorn album almond apricot atlas avocado badge bamboo barrel bear bell bench bird blanket boat book
    bottle bowl box bread brick brush bucket bus cabin cactus cake canyon cat chair cheese chess clock coat
    coin comet compass copper coral cow crown cup dish doctor dog door dress drum duck eagle ear earth egg
    elbow envelope fence fig fire fish flag fog fork fox frog gate ghost ginger glass goat gold goose grass
    hat hawk heart hill horse house ice ink iron jar jelly juice key king knife lake lamp leaf lime lobster
    map mask milk mint moon mouse mushroom nail nest night nose nut oak oil owl page pan panda parrot pear
    pen piano pig pine pizza pond potato queen rain rice ring robot rock roof rope rose salt sand sea seed
    sheep ship shirt shoe snail snow soap sock soup spinach star stone street sugar sun swan tea tent thumb
    toast tool tooth train tree truck urn vase vest wagon wall watch wheat wheel wind wood yak yarn zinc""".split()
)
FIRST_NAMES = tuple(
    """Anna Ben Clara David Emma Felix Grace Henry Ivy Jack Karen Liam Maria Noah Olivia Paul Quinn Rosa Sam
    Tina Umar Vera Walter Xenia Yusuf Zoe Aisha Boris Carmen Diego Elena Farid Gita Hugo Ines Jonas Kenji
    Laila Marco Nadia Oscar Priya Rafael Sofia Tomas Uma Victor Wendy Yara Zach Alice Bruno Chloe Daniel
    Edith Frank Gloria Hassan Irene James Kofi Lena Mei Nora Omar Petra Ravi Sara Theo Lucas Mina Peter""".split()
)
LAST_NAMES = tuple(
    """Adams Baker Chen Diaz Evans Fischer Garcia Huang Ivanov Jones Kim Lopez Miller Novak Okafor Patel
    Quinn Rossi Smith Tanaka Ueda Vogel Weber Xu Young Zimmer Ahmed Berg Costa Dubois Eriksen Ferrari Gupta
    Hansen Ito Jensen Kumar Larsen Meier Nguyen Olsen Perez Romero Silva Torres Ali Brown Clark Hall King
    Lee Martin Moore Nelson Parker Reed Scott Turner Walker Wood""".split()
)
CITIES = (
    "Paris", "Rome", "Berlin", "Madrid", "London", "Tokyo", "Oslo", "Cairo", "Lima", "Delhi", "Sydney",
    "Boston", "Chicago", "Vienna", "Prague", "Lisbon", "Dublin", "Athens", "Warsaw", "Zurich", "Geneva",
    "Munich", "Hamburg", "Milan", "Naples", "Seoul", "Osaka", "Kyoto", "Beijing", "Shanghai", "Mumbai",
    "Bangkok", "Hanoi", "Manila", "Jakarta", "Nairobi", "Lagos", "Accra", "Tunis", "Dakar", "Toronto",
    "Montreal", "Vancouver", "Seattle", "Denver", "Austin", "Dallas", "Miami", "Atlanta", "Phoenix",
    "Havana", "Bogota", "Quito", "Santiago", "Brussels", "Ghent", "Utrecht", "Rotterdam", "Malaga",
    "Valencia", "Porto", "Bern", "Basel", "Graz", "Salzburg", "Krakow", "Riga", "Vilnius", "Tallinn",
    "Helsinki", "Stockholm", "Bergen", "Aarhus", "Ankara", "Izmir", "Tehran", "Baghdad", "Doha", "Dubai",
    "New York", "San Francisco", "Los Angeles", "Hong Kong", "Cape Town", "Mexico City", "Buenos Aires",
    "Amsterdam", "Barcelona", "Copenhagen", "Budapest", "Istanbul", "Singapore", "Melbourne", "Auckland",
)  # fmt: skip
_ONSETS = "b br c ch d dr f fl g gr h j k kl l m n p pr qu r s sh st t tr v w z".split()
_VOWELS = "a e i o u ai ea oo ou".split()
_CODAS = ("", "", "n", "r", "l", "s", "m", "k", "t", "nd", "rn", "x")


def nonce(rng: random.Random, syllables: int = 2) -> str:
    """A word that nobody has seen, so that copying is learnt rather than recall."""
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables))


def person(rng: random.Random) -> str:
    first = rng.choice(FIRST_NAMES) if rng.random() < 0.8 else nonce(rng).capitalize()
    last = rng.choice(LAST_NAMES) if rng.random() < 0.7 else nonce(rng).capitalize()
    return f"{first} {last}"


def city(rng: random.Random) -> str:
    return rng.choice(CITIES) if rng.random() < 0.75 else nonce(rng).capitalize()
