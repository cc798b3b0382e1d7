"""What people write into files and command lines: read within limits and checked before anything is built from it."""
