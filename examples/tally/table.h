#ifndef TALLY_TABLE_H
#define TALLY_TABLE_H

#include <stddef.h>

/* A hash table from strings to counts. */
struct table;

struct entry {
	const char *key;
	unsigned long count;
};

/* table_new returns an empty table, NULL when there is no memory. */
struct table *table_new(void);
void table_free(struct table *t);

/* table_add counts one more of the n bytes at key. 0, or -1 without memory. */
int table_add(struct table *t, const char *key, size_t n);

/* table_get is the count of key, 0 when it is not there. */
unsigned long table_get(const struct table *t, const char *key, size_t n);

size_t table_len(const struct table *t);

/* table_sorted returns all entries, most frequent first, equal ones by key.
 * The caller frees the array, the keys stay the table's. */
struct entry *table_sorted(const struct table *t);

#endif
