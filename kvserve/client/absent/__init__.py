"""What a client does about a server that is not there; shared by both kinds of client."""
