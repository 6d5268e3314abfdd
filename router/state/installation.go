package state

import (
	"context"
	"crypto/rand"
	"encoding/hex"
)

// Installation is the identity that all gateways on this Redis and prefix
// share; it is made on the first call. It marks what they own elsewhere, such
// as containers.
func (s *Store) Installation(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	if err := s.client.SetNX(ctx, s.keys.installation(), hex.EncodeToString(b[:]), 0).Err(); err != nil {
		return "", s.fail(ctx, "reading the installation's identity", err)
	}
	id, err := s.client.Get(ctx, s.keys.installation()).Result()
	if err != nil {
		return "", s.fail(ctx, "reading the installation's identity", err)
	}
	return id, nil
}
