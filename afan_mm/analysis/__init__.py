"""What a trained model is like: its curvature, loss landscape, features, cost and health."""
