"""The router measured side by side with its peers: `scripts/bench`. How to read what it prints: scripts/README.md."""
