"""The paper's two β-VAEs in PyTorch, as a peer for `statcell`: pip install torch==2.11.0

Source: Donovan-Maiye et al. 2022, section 4.2, Fig 7, Table 3. Axes are (N, C, [Z,] Y, X).
"""

import torch
from torch import nn
from torch.nn import functional as F


class Normalised(nn.Module):
    """A convolution or linear layer with W / σ(W): one power iteration a forward pass, u and v constants for the gradient."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.register_buffer("u", F.normalize(torch.randn(layer.weight.shape[0]), dim=0))

    def forward(self, x):
        layer, weight = self.layer, self.layer.weight
        matrix = weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(matrix.t() @ self.u, dim=0)
            u = F.normalize(matrix @ v, dim=0)
            if self.training:
                self.u.copy_(u)
        weight = weight / (u @ (matrix @ v))
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, layer.bias)
        functions = {nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d, nn.ConvTranspose2d: F.conv_transpose2d,
                     nn.ConvTranspose3d: F.conv_transpose3d}
        return functions[type(layer)](x, weight, layer.bias, stride=layer.stride, padding=layer.padding)


class Block(nn.Module):
    """A residual block that halves (down) or doubles (up) the image; conditions are added before the activation."""

    def __init__(self, dimensions, inputs, outputs, conditions, up, activation):
        super().__init__()
        conv, spread, norm, pool = {
            2: (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.AvgPool2d),
            3: (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.AvgPool3d),
        }[dimensions]
        self.bypass = Normalised(conv(inputs, outputs, 1))
        self.scale = nn.Upsample(scale_factor=2) if up else pool(2)
        self.up, self.activation = up, activation
        self.conv1 = Normalised((spread if up else conv)(inputs, inputs, 4, 2, 1))
        self.bn1 = norm(inputs)
        self.conv2 = Normalised(conv(inputs, outputs, 3, 1, 1))
        self.bn2 = norm(outputs)
        self.conditions = nn.ModuleList(
            nn.Sequential(Normalised(conv(channels, outputs, 1)), norm(outputs), nn.ReLU()) for channels in conditions
        )

    def forward(self, x, given):
        bypass = self.scale(self.bypass(x)) if self.up else self.bypass(self.scale(x))
        out = bypass + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        for condition, value in zip(self.conditions, given):
            out = out + condition(value)
        return self.activation(out)


class Vae(nn.Module):
    """MR, or with `reference` channels and `labels` MT."""

    def __init__(self, size, channels, latent, images, reference=0, labels=0):
        super().__init__()
        dimensions, levels = len(size), len(channels)
        self.dimensions, self.levels, self.target = dimensions, levels, labels > 0
        conditions = [reference, labels] if labels else []
        all_channels = [images, *channels]
        block = lambda i, o, up, last: Block(dimensions, i, o, conditions, up, F.softplus if last else F.relu)
        self.encoder = nn.ModuleList(block(all_channels[n], all_channels[n + 1], False, False) for n in range(levels))
        self.decoder = nn.ModuleList(block(all_channels[n + 1], all_channels[n], True, n == 0) for n in reversed(range(levels)))
        self.grid = [channels[-1], *(side // 2**levels for side in size)]
        flat = torch.Size(self.grid).numel()
        self.mu, self.logvar = Normalised(nn.Linear(flat, latent)), Normalised(nn.Linear(flat, latent))
        self.fc = Normalised(nn.Linear(latent, flat))
        self.bn = self.decoder[0].bn1.__class__(channels[-1])
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def given(self, reference, label):
        """For each level from the image inwards: what conditions a block with that output size."""
        if not self.target:
            return [()] * (self.levels + 1)
        label = label.reshape(*label.shape, *[1] * self.dimensions)
        step = lambda n: (..., *[slice(None, None, 2**n)] * self.dimensions)
        return [(reference[step(n)], label) for n in range(self.levels + 1)]

    def encode(self, x, given):
        for level, block in enumerate(self.encoder):
            x = block(x, given[level + 1])
        x = x.flatten(1)
        return self.mu(x), self.logvar(x)

    def decode(self, z, given):
        x = F.relu(self.bn(self.fc(z).reshape(-1, *self.grid)))
        for step, block in enumerate(self.decoder):
            x = block(x, given[self.levels - 1 - step])
        return x

    def losses(self, x, noise, reference=None, label=None):
        """Reconstruction and KL, means over the batch; `noise`: samples × N × latent."""
        given = self.given(reference, label)
        mu, logvar = self.encode(x, given)
        error = sum((self.decode(mu + torch.exp(logvar / 2) * eps, given) - x).square().sum() for eps in noise)
        kl = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum()
        return error / len(noise) / len(x), kl / len(x)
