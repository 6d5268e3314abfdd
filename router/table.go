package router

import (
	"hash/maphash"
	"slices"
)

// A Table is a trie over the bits of hostnames' hashes (Bagwell, Ideal Hash
// Trees, 2001). A change copies one leaf and the branches that lead to it, so
// that its cost hardly grows with the Table.
const (
	fanBits  = 5 // of the hash at each branch
	fan      = 1 << fanBits
	leafMost = 8 // hostnames in a leaf; with more it becomes a branch, as long as the hash has bits
	hashBits = 64
)

var tableSeed = maphash.MakeSeed()

// Table is an immutable map from hostname to T. It is safe for any number of
// readers; With makes the next one. The zero Table is empty and ready to use.
type Table[T any] struct {
	root branch[T]
	size int
}

// branch is a part of a Table, immutable as that: with kids, or a leaf, which
// may be empty.
type branch[T any] struct {
	kids *[fan]branch[T] // by the lowest bits of what is left of the hash
	leaf []leafEntry[T]
}

type leafEntry[T any] struct {
	hash  uint64
	host  string
	value T
}

// Lookup finds a hostname in the form that NormalizeHost gives. It does not
// allocate.
func (t *Table[T]) Lookup(host []byte) (v T, ok bool) {
	hash := maphash.Bytes(tableSeed, host)
	b := &t.root
	for rest := hash; b.kids != nil; rest >>= fanBits {
		b = &b.kids[rest%fan]
	}
	for i := range b.leaf {
		if e := &b.leaf[i]; e.hash == hash && e.host == string(host) {
			return e.value, true
		}
	}
	return v, false
}

// Len is the number of hostnames.
func (t *Table[T]) Len() int { return t.size }

// With is the table after some hostnames were set and others dropped; t itself
// does not change.
func (t *Table[T]) With(set map[string]T, drop []string) *Table[T] {
	next := *t
	for _, host := range drop {
		if _, sets := set[host]; sets {
			continue
		}
		var dropped bool
		if next.root, dropped = next.root.without(maphash.String(tableSeed, host), 0, host); dropped {
			next.size--
		}
	}
	for host, v := range set {
		var added bool
		if next.root, added = next.root.with(leafEntry[T]{maphash.String(tableSeed, host), host, v}, 0); added {
			next.size++
		}
	}
	return &next
}

// with is the branch with an entry set, of whose hash the bits below depth have
// led here. It reports whether the hostname is new.
func (b *branch[T]) with(e leafEntry[T], depth uint) (_ branch[T], added bool) {
	if b.kids != nil {
		kids := *b.kids
		kid := &kids[e.hash>>depth%fan]
		*kid, added = kid.with(e, depth+fanBits)
		return branch[T]{kids: &kids}, added
	}
	if i := b.find(e.hash, e.host); i >= 0 {
		leaf := slices.Clone(b.leaf)
		leaf[i] = e
		return branch[T]{leaf: leaf}, false
	}
	leaf := make([]leafEntry[T], len(b.leaf)+1)
	leaf[copy(leaf, b.leaf)] = e
	return split(leaf, depth), true
}

// split makes a branch with kids of what is too much for a leaf.
func split[T any](leaf []leafEntry[T], depth uint) branch[T] {
	if len(leaf) <= leafMost || depth >= hashBits {
		return branch[T]{leaf: leaf}
	}
	var parts [fan][]leafEntry[T]
	for _, e := range leaf {
		i := e.hash >> depth % fan
		parts[i] = append(parts[i], e)
	}
	kids := new([fan]branch[T])
	for i, part := range parts {
		kids[i] = split(slices.Clip(part), depth+fanBits)
	}
	return branch[T]{kids: kids}
}

// without is the branch without a hostname, of whose hash the bits below depth
// have led here. It reports whether the hostname was there.
func (b *branch[T]) without(hash uint64, depth uint, host string) (_ branch[T], dropped bool) {
	if b.kids != nil {
		i := hash >> depth % fan
		kid, dropped := b.kids[i].without(hash, depth+fanBits, host)
		if !dropped {
			return *b, false
		}
		kids := *b.kids
		kids[i] = kid
		return branch[T]{kids: &kids}, true
	}
	i := b.find(hash, host)
	if i < 0 {
		return *b, false
	}
	return branch[T]{leaf: slices.Concat(b.leaf[:i], b.leaf[i+1:])}, true
}

// find is where a leaf holds a hostname; -1 where it does not.
func (b *branch[T]) find(hash uint64, host string) int {
	return slices.IndexFunc(b.leaf, func(e leafEntry[T]) bool { return e.hash == hash && e.host == host })
}
