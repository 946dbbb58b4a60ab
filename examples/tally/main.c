#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "table.h"
#include "words.h"

int main(int argc, char **argv)
{
	struct table *t = table_new();
	if (!t) {
		fprintf(stderr, "tally: no memory\n");
		return 1;
	}
	int failed = 0;
	if (argc < 2 && words_count(stdin, t) != 0) {
		fprintf(stderr, "tally: stdin: %s\n", strerror(errno));
		failed = 1;
	}
	for (int i = 1; i < argc; i++) {
		FILE *f = fopen(argv[i], "r");
		if (!f || words_count(f, t) != 0) {
			fprintf(stderr, "tally: %s: %s\n", argv[i], strerror(errno));
			failed = 1;
		}
		if (f)
			fclose(f);
	}
	struct entry *all = table_sorted(t);
	if (!all) {
		fprintf(stderr, "tally: no memory\n");
		return 1;
	}
	for (size_t i = 0; i < table_len(t); i++)
		printf("%lu %s\n", all[i].count, all[i].key);
	free(all);
	table_free(t);
	return failed;
}
