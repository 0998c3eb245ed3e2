"""What cliffnn costs, measured."""
