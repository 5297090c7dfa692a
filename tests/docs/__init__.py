"""The tests of what is written about Roomlapse, and what fills the parts that the program writes."""
