"""What `examples/nbody_o3.py` needs besides the model: the simulation and the report."""
