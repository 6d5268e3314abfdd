package registry

import (
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/distribution/distribution/v3/configuration"
)

// S3 is an S3-compatible storage.
type S3 struct {
	Bucket    string
	Prefix    string // folder within the bucket; may be empty
	Endpoint  string // https://host[:port]; empty: Amazon's own, by region
	Region    string
	AccessKey string
	SecretKey string // must never be logged
}

// ParseS3 reads
//
//	s3://bucket[/prefix][?region=R&endpoint=https://host:port]
//
// The keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, so that they
// are not seen in the list of processes; without them, the machine's own role
// is used. Its errors show no secret.
func ParseS3(raw string) (*S3, error) {
	const form = "write s3://BUCKET[/PREFIX][?region=REGION&endpoint=https://HOST], with the keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "s3" || u.Host == "" {
		return nil, fmt.Errorf("this is no S3 storage: %s", form)
	}
	if u.User != nil {
		return nil, fmt.Errorf("there must be no key in the storage's URL: %s", form)
	}
	s := &S3{
		Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Region: "us-east-1",
		AccessKey: os.Getenv("AWS_ACCESS_KEY_ID"), SecretKey: os.Getenv("AWS_SECRET_ACCESS_KEY"),
	}
	for key, values := range u.Query() {
		switch key {
		case "region":
			s.Region = values[0]
		case "endpoint":
			e, err := url.Parse(values[0])
			if err != nil || e.Host == "" || e.User != nil || e.Scheme != "https" && e.Scheme != "http" {
				return nil, fmt.Errorf("endpoint is no address of a storage: %s", form)
			}
			s.Endpoint = values[0]
		default:
			return nil, fmt.Errorf("there is no setting %q: %s", key, form)
		}
	}
	return s, nil
}

// String names the storage without its keys.
func (s *S3) String() string {
	text := "s3://" + s.Bucket
	if s.Prefix != "" {
		text += "/" + s.Prefix
	}
	return text
}

func (s *S3) parameters() configuration.Parameters {
	p := configuration.Parameters{"bucket": s.Bucket, "region": s.Region, "rootdirectory": "/" + s.Prefix}
	if s.AccessKey != "" {
		p["accesskey"], p["secretkey"] = s.AccessKey, s.SecretKey
	}
	if s.Endpoint != "" {
		p["regionendpoint"], p["forcepathstyle"] = s.Endpoint, true
		p["secure"] = strings.HasPrefix(s.Endpoint, "https:")
	}
	return p
}
