"""What `scripts/simulate` consists of: engines and arrivals in virtual time around the router's real policies."""
