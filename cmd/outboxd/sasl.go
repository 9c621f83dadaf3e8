package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/aws"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"outboxd/internal/config"
)

// credentialsTimeout bounds a question to whoever has the credentials of a login.
const credentialsTimeout = 10 * time.Second

// saslMechanism returns how to log in to Kafka, nil for not at all. The password or
// token is asked for at each login: its file may have been replaced.
func saslMechanism(cfg config.SASL) sasl.Mechanism {
	password := func() (string, error) { return current("kafka.sasl.password", cfg.Password) }
	scrams := func(context.Context) (scram.Auth, error) {
		p, err := password()
		return scram.Auth{User: cfg.Username, Pass: p}, err
	}
	switch cfg.Mechanism {
	case "PLAIN":
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			p, err := password()
			return plain.Auth{User: cfg.Username, Pass: p}, err
		})
	case "SCRAM-SHA-256":
		return scram.Sha256(scrams)
	case "SCRAM-SHA-512":
		return scram.Sha512(scrams)
	case "OAUTHBEARER":
		tokens := tokens{cfg: cfg}
		return oauth.Oauth(func(ctx context.Context) (oauth.Auth, error) {
			token, err := tokens.get(ctx)
			return oauth.Auth{Token: token, Extensions: cfg.Extensions}, err
		})
	case "AWS_MSK_IAM":
		if cfg.Username != "" {
			return aws.ManagedStreamingIAM(func(context.Context) (aws.Auth, error) {
				p, err := password()
				return aws.Auth{AccessKey: cfg.Username, SecretKey: p}, err
			})
		}
		return aws.ManagedStreamingIAM(new(awsCredentials).get)
	}
	return nil
}

// current returns a secret as it is now, or an error that names its key.
func current(key string, s config.Secret) (string, error) {
	text, err := s.Current()
	if err != nil {
		err = fmt.Errorf("%s: %w", key, err)
	}
	return text, err
}

// tokens are those of OAUTHBEARER. Its methods may be called by any goroutine.
type tokens struct {
	cfg config.SASL

	mu     sync.Mutex
	cached *oauth2.Token
	secret string // that it was got with
}

// get returns a token that is valid for a while. One from kafka.sasl.token_url is used
// for several logins, until it is about to expire or the secret is another.
func (t *tokens) get(ctx context.Context) (string, error) {
	if t.cfg.TokenURL == "" {
		token, err := current("kafka.sasl.token", t.cfg.Token)
		return strings.TrimSpace(token), err
	}
	secret, err := current("kafka.sasl.password", t.cfg.Password)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cached.Valid() && t.secret == secret {
		return t.cached.AccessToken, nil
	}
	client, err := t.client()
	if err != nil {
		return "", fmt.Errorf("kafka.sasl.token_ca: %w", err)
	}
	defer client.CloseIdleConnections()
	ask := clientcredentials.Config{ClientID: t.cfg.Username, ClientSecret: secret, TokenURL: t.cfg.TokenURL, Scopes: strings.Fields(t.cfg.Scope)}
	token, err := ask.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	if err != nil {
		return "", fmt.Errorf("get a token from kafka.sasl.token_url %s: %w", t.cfg.TokenURL, refusal(err))
	}
	t.cached, t.secret = token, secret
	return token.AccessToken, nil
}

// client asks the token endpoint. Its authorities are read each time.
func (t *tokens) client() (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if t.cfg.TokenCA != "" {
		pem, err := os.ReadFile(t.cfg.TokenCA)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", t.cfg.TokenCA)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: transport, Timeout: credentialsTimeout}, nil
}

// refusal is the error of a token endpoint without the body of its answer, which can
// be long, and can hold anything.
func refusal(err error) error {
	answered := (*oauth2.RetrieveError)(nil)
	if !errors.As(err, &answered) {
		return err
	}
	what := answered.Response.Status
	if answered.ErrorCode != "" {
		what += ": " + answered.ErrorCode
	}
	return fmt.Errorf("it answers %.200s; look at kafka.sasl.username, kafka.sasl.password and kafka.sasl.scope", what)
}

// awsCredentials are those that the environment, the profile, the pod or the instance
// has, as the AWS SDK finds them. Its methods may be called by any goroutine.
type awsCredentials struct {
	mu       sync.Mutex
	provider sdk.CredentialsProvider // caches; nil at first
}

func (c *awsCredentials) get(ctx context.Context) (aws.Auth, error) {
	ctx, cancel := context.WithTimeout(ctx, credentialsTimeout)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.provider == nil {
		found, err := awsconfig.LoadDefaultConfig(ctx)
		if err != nil {
			return aws.Auth{}, fmt.Errorf("find credentials of AWS: %w; give them by kafka.sasl.username and kafka.sasl.password, or in one of the ways of the AWS SDK", err)
		}
		c.provider = found.Credentials
	}
	found, err := c.provider.Retrieve(ctx)
	if err != nil {
		return aws.Auth{}, fmt.Errorf("find credentials of AWS: %w; give them by kafka.sasl.username and kafka.sasl.password, or in one of the ways of the AWS SDK", err)
	}
	return aws.Auth{AccessKey: found.AccessKeyID, SecretKey: found.SecretAccessKey, SessionToken: found.SessionToken}, nil
}
