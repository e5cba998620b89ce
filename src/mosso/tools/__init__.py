"""Tools that this side runs: MCP servers, and the tools that gpt-oss knows by itself (python, browser).

Nothing here knows of HTTP requests or of token ids: a tool gets a call's text and gives text back, within
limits of time and size, and never raises for what a model, a program or a server did wrong.
"""
