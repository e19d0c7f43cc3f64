"""What handlers use besides their base classes."""
