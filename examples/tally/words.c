#include "words.h"

#include <stdlib.h>

static int in_word(int c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c >= 0x80;
}

int words_count(FILE *in, struct table *t)
{
	size_t n = 0, cap = 64;
	char *word = malloc(cap);
	if (!word)
		return -1;
	int c;
	do {
		c = getc(in);
		if (c != EOF && in_word(c)) {
			if (n == cap) {
				char *bigger = realloc(word, cap * 2);
				if (!bigger) {
					free(word);
					return -1;
				}
				word = bigger;
				cap *= 2;
			}
			word[n++] = (char)(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
		} else if (n > 0) {
			if (table_add(t, word, n) != 0) {
				free(word);
				return -1;
			}
			n = 0;
		}
	} while (c != EOF);
	free(word);
	return ferror(in) ? -1 : 0;
}
