"""Speed, memory and bytes, each beside a reference measured in the same run: ``lavq bench``."""
