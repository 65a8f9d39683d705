"""The Open Inference Protocol over HTTP: /v2/..., in JSON and Triton's binary form.

What comes is translated to the messages of `service/oip`, whose methods answer it, and what they
answer is translated back. Nothing here knows which server carries the requests.
"""
