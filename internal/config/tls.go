package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// KeyError is what is wrong with one key of a group.
type KeyError struct {
	Key string // relative to the group: ca
	Err error
}

func (e *KeyError) Error() string { return e.Key + ": " + e.Err.Error() }
func (e *KeyError) Unwrap() error { return e.Err }

// Read reads the files and returns the options of a server, nil without a
// certificate. The options read the files again for each connection; an error joins
// one *KeyError for each file that cannot be used.
func (t HTTPTLS) Read() (*tls.Config, error) {
	if t.Cert == "" {
		return nil, nil
	}
	files := TLS{Cert: t.Cert, Key: t.Key}
	if _, err := files.Read(); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		now, err := files.Read()
		if err != nil {
			return nil, err
		}
		return &now.Certificates[0], nil
	}}, nil
}

// Read reads the files and returns the options of a client. Ask for each
// connection: then files that were replaced are used without a restart. An error
// joins one *KeyError for each file that cannot be used.
func (t TLS) Read() (*tls.Config, error) {
	c := &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS12}
	var problems []error
	if t.CA != "" {
		pem, err := readFile(t.CA)
		if err != nil {
			problems = append(problems, &KeyError{"ca", fmt.Errorf("cannot read %s: %s", t.CA, reason(err))})
		} else if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
			problems = append(problems, &KeyError{"ca", fmt.Errorf("%s holds no PEM certificate", t.CA)})
		}
	}
	if t.Cert != "" {
		cert, err := readFile(t.Cert)
		if err != nil {
			problems = append(problems, &KeyError{"cert", fmt.Errorf("cannot read %s: %s", t.Cert, reason(err))})
		}
		key, keyErr := readFile(t.Key)
		if keyErr != nil {
			problems = append(problems, &KeyError{"key", fmt.Errorf("cannot read %s: %s", t.Key, reason(keyErr))})
		}
		if err == nil && keyErr == nil {
			pair, err := tls.X509KeyPair(cert, key)
			if err != nil {
				problems = append(problems, &KeyError{"cert", fmt.Errorf("%s and %s: %w", t.Cert, t.Key, err)})
			}
			c.Certificates = []tls.Certificate{pair}
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return c, nil
}
