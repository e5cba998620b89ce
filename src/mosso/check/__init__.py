"""`mosso check URL`: an examination of any OpenAI-compatible server, ours or another, over its socket.

    server     the examined server: requests, SSE, every text that it said
    case       what a case is, and how it ends: passed, failed with a sentence, skipped with a sentence
    chat, streams, harmony, tools, errors, responses, dialects, load     the cases
    examination     runs them, and reports

It knows nothing of how mosso's own server is made, on purpose: it sees what a client sees.
"""
