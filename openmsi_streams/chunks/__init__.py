"""What travels: chunks, file versions, byte ranges, keys, topics and the messages around them."""
