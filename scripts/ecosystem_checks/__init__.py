"""Clients, benchmarks and Prometheus against a deployment, each in an environment of its own."""
