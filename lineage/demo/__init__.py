"""A family of small trained models on which the whole pipeline is shown."""
