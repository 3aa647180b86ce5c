"""Which chunks, codecs and packs suit the way an array is read and written?"""
