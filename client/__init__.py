"""One hospital's side of the federation: a Flower ClientApp and the commands of a site."""
