"""What is deployed: a folder with the engine or recipe, its tokenizer, its code and a hash of everything."""
