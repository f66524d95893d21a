"""What the delivery loop needs of the rest of the house, and the values that pass between them."""
