/* Tests of the table, against a plain array as the model. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "table.h"

static int failures;

#define CHECK(cond)                                                            \
	do {                                                                   \
		if (!(cond)) {                                                 \
			printf("%s:%d: %s\n", __FILE__, __LINE__, #cond);      \
			failures++;                                            \
		}                                                              \
	} while (0)

static void empty(void)
{
	struct table *t = table_new();
	CHECK(table_len(t) == 0);
	CHECK(table_get(t, "x", 1) == 0);
	struct entry *all = table_sorted(t);
	CHECK(all != NULL);
	free(all);
	table_free(t);
}

static void random_adds(void)
{
	enum { KEYS = 5000, ADDS = 200000 };
	unsigned long *model = calloc(KEYS, sizeof *model);
	struct table *t = table_new();
	unsigned seed = 12345;
	size_t distinct = 0;
	for (int i = 0; i < ADDS; i++) {
		seed = seed * 1103515245u + 12345u;
		unsigned k = (seed >> 8) % KEYS;
		char key[16];
		int n = snprintf(key, sizeof key, "k%u", k);
		CHECK(table_add(t, key, (size_t)n) == 0);
		distinct += model[k]++ == 0;
	}
	CHECK(table_len(t) == distinct);
	for (unsigned k = 0; k < KEYS; k++) {
		char key[16];
		int n = snprintf(key, sizeof key, "k%u", k);
		CHECK(table_get(t, key, (size_t)n) == model[k]);
	}
	struct entry *all = table_sorted(t);
	for (size_t i = 1; i < table_len(t); i++)
		CHECK(all[i - 1].count > all[i].count ||
		      (all[i - 1].count == all[i].count && strcmp(all[i - 1].key, all[i].key) < 0));
	free(all);
	table_free(t);
	free(model);
}

static void prefixes(void)
{
	struct table *t = table_new();
	table_add(t, "abcdef", 3);
	table_add(t, "abcdef", 6);
	CHECK(table_get(t, "abc", 3) == 1);
	CHECK(table_get(t, "abcdef", 6) == 1);
	CHECK(table_get(t, "ab", 2) == 0);
	table_free(t);
}

int main(void)
{
	empty();
	random_adds();
	prefixes();
	return failures != 0;
}
