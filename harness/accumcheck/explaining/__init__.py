"""From readings to verdict, cause and smallest counterexample."""
