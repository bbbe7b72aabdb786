"""What every server shares: the request contract, parsing, the encoding cache, and the service that answers."""
