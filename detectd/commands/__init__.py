"""What the commands of `detectd` do, apart from reading their arguments."""
