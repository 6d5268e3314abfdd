package router

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"time"
)

// Token lets somebody use the control API. Only its hash is kept.
type Token struct {
	ID      string // public part; names the token in listings and logs
	Name    string // chosen by a person; unique is not required
	Hash    string // hex SHA-256 of the secret part
	Created time.Time
}

// NewToken makes a token and the text that its holder shows, which cannot be
// had again: fgt_<id>_<secret>. The secret has 256 bits from the system's
// random source, so one round of SHA-256 is enough to store it safely.
func NewToken(name string, now time.Time) (Token, Secret) {
	id, secret := make([]byte, 6), make([]byte, 32)
	_, _ = rand.Read(id) // never fails since Go 1.24
	_, _ = rand.Read(secret)
	text := base64.RawURLEncoding.EncodeToString(secret)
	t := Token{ID: hex.EncodeToString(id), Name: name, Hash: hashSecret(text), Created: now}
	return t, NewSecret("fgt_" + t.ID + "_" + text)
}

// TokenID is the public part of a token's text; false where it has not the form.
func TokenID(text string) (string, bool) {
	rest, ok := strings.CutPrefix(text, "fgt_")
	id, secret, ok2 := strings.Cut(rest, "_")
	return id, ok && ok2 && len(id) == 12 && secret != ""
}

// Matches compares a token's text with t in constant time.
func (t Token) Matches(text string) bool {
	id, ok := TokenID(text)
	if !ok || id != t.ID {
		return false
	}
	sum := hashSecret(strings.TrimPrefix(text, "fgt_"+id+"_"))
	return subtle.ConstantTimeCompare([]byte(sum), []byte(t.Hash)) == 1
}

func hashSecret(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
