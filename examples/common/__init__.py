"""What the experiments share: the command line, the data on the device, the training, the report."""
