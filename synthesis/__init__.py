"""What published comparisons say together: fitted offline with a statistics library, committed under kb/synthesis/."""
