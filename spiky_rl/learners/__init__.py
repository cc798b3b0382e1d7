"""What trains a policy: one package for each library, and what they share."""
