"""The listening study: which image do people choose for what they hear?"""
