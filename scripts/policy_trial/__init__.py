"""Policies over real HTTP: running routers, in real time, over simulated engines' servers and real ones."""
