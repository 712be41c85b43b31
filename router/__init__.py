"""The router: owns requests. Workers come from the fleet; who lays it there is not the router's business."""
