"""What a training step with A-FAN costs beside the stock one."""
