"""Wire schemas, and their translation to requests and from token events. No HTTP."""
