"""The ASGI app. It is handed a TokenSource, it does not build one."""
