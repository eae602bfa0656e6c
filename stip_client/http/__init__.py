"""What the gateway and the page share: the listening socket, the HTTP server, Host headers."""
