"""Energies and forces of metal clusters: what is learned, and molecular dynamics with what was learned."""
