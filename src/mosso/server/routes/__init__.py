"""The HTTP surface, one module for each group of endpoints.

A route reads the request, calls the api room, and answers.
"""
