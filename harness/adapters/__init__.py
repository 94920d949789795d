"""Training loops of frameworks and published recipes, one ``train(task)`` a file; each imports its framework when used."""
