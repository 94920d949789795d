"""What a loop does to optimizers and to the process, seen from outside."""
