// Nothing: the precompiled headers of all tests are made for this file.
