"""What a loop does, as rules: exact simulation, and the laws that rules break. No torch."""
