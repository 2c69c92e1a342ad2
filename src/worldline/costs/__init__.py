"""What a plan should achieve and avoid, written on named signals in physical units."""
