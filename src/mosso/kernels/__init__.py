"""The operations of gpt-oss, each defined by a plain torch twin."""
