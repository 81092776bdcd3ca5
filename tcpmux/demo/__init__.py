"""The demo: two echo servers, one instance, and a client that counts the answers."""
