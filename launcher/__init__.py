"""The launcher: owns processes. It lays the fleet that the router reads, and the router never calls it back."""

__version__ = "0.1.0"
